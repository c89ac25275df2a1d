"""Values → text. Pure: nothing here prints."""
