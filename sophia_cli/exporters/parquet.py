"""One parquet file with embedded images: all columns of the records, images as `datasets` stores them, and `messages`."""

from sophia_cli.exporters._base import conversation_columns

OUTPUT_KIND, SOURCE_KIND, EMBEDS_IMAGES = "table", "trajectories", True
TYPED_COLUMNS = ("images", "messages")
row_fields = conversation_columns
