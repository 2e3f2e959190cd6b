"""The proof: does the system gain where there is something to gain, and does it keep quiet where there is not; all in simulation."""
