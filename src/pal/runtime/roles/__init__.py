"""What each kind of worker does between its birth and its end."""
