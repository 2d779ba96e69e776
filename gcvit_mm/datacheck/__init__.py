"""Looking at data: before a run, and while it is read."""
