"""StoryWorld: a seeded generator of a small English world for training and evaluation."""
