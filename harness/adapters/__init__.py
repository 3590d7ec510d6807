"""The adapters we ship for foreign engines, one file each."""
