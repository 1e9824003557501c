"""The chat engine behind a web page: places, limits, and one WebSocket for each conversation."""
