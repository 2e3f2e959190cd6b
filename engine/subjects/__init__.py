"""What is known of a subject: recent events, sequence state, batch-scored traits."""
