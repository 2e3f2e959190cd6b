"""The vocabulary everything is said in, and the policies that choose offers; numpy only."""
