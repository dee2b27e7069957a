"""Helpers that several test files share: the command as a user types it, servers, small models, records."""
