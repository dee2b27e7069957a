"""Reading and writing files: JSONL, compression, shards, manifests, images, parquet.

- `jsonl.py`: records from files and stdin, and records as lines
- `record_writer.py`, `manifest.py`: where a step writes, how a run resumes, FILE.manifest.json
- `rereadable.py`: inputs that are read more than once, pipes included
- `images.py`: an image by path, URL or data URI, and its pixels; `downloads.py`: bounded downloads
- `paths.py`, `stdio.py`: no output is an input; stdout holds records only
- `parquet.py`: tables with embedded images

What a data set means (its columns and layout) is not here but in `sources/`.
"""
