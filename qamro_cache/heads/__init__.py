"""Small networks over cached embeddings, and the file that keeps one."""
