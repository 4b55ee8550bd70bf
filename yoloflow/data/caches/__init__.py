"""What is kept so as not to be done twice: decoded images, indexed data sets. Never stale, never pickle."""
