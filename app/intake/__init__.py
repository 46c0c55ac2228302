"""POST /hooks/{hook}: from a request to an accepted delivery."""
