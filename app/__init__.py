"""The browser interface; the only importer of gradio."""
