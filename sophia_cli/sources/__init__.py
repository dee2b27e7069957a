"""Where items come from: one file per layout of data.

- `items.py`: the entry point; it finds the layout, makes ids, and names bad rows
- `image_folder.py`, `json_file.py`, `datasets_folder.py`, `parquet.py`, `hub.py`: one layout each
- `_embedded_images.py`, `_floats.py`: columns that hold images or narrow floats, shared by the last three

To add a layout, write one file with a `read_…` function and call it in `items.py`. Benchmarks have folders of their
own layouts: see `evaluation/benchmark_files.py`.
"""
