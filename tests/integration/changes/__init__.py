"""The revisions of users and the feed of changes."""
