"""What came of decisions and what visitors did: rewards, outcomes, events."""
