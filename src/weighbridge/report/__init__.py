"""What was recorded, as text for people and programs."""
