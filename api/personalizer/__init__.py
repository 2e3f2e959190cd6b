"""The door for users of the retired Azure Personalizer: their SDKs work with nothing changed but the address and the key."""
