"""What happens to images: list → plan shards → decode → image batches → classify → part → publish → query.

This package knows neither Ray nor Prefect.
"""
