"""What each container promises: walks over chunks, pages and frames; nothing is decoded."""
