"""Models: configuration, checkpoints (folder, hub, GGUF), tokenizer and chat template.

Start at `loader.open_model`; each module imports what it needs, so this one imports nothing.
"""
