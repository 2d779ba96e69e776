"""Annotations in other formats than COCO's: one file a format, and what turns them into COCO."""
