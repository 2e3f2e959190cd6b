"""Logs from elsewhere: Arrow, Parquet, pandas, obp, VW dsjson."""
