"""What a run came to: facts, words, pictures, the page."""
