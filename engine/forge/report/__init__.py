"""What a reviewer reads about a release, and the bundle by which anyone checks it without Forge."""
