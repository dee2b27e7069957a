"""One parquet file with embedded images: every column of the records, images as `datasets` knows them, `messages`."""

from sophia_cli.exporters._base import every_column

FORM, OF, EMBED = "table", "trajectories", True
SHAPED = ("images", "messages")
fields = every_column
