"""A folder of people's own videos and images with captions: read, checked, cut into clips."""
