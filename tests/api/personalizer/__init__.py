"""The Azure Personalizer contract."""
