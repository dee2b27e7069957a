"""A folder for the hub: parquet files of bounded size with embedded images, and a card. `load_dataset(FOLDER)` reads it."""

from sophia_cli.exporters._base import conversation_columns

OUTPUT_KIND, SOURCE_KIND, EMBEDS_IMAGES = "hub", "trajectories", True
TYPED_COLUMNS = ("images", "messages")
row_fields = conversation_columns
