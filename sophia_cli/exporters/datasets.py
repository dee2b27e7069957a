"""A folder fit for the hub: parquet of bounded size with embedded images, and a card. `load_dataset(FOLDER)` reads it."""

from sophia_cli.exporters._base import every_column

FORM, OF, EMBED = "hub", "trajectories", True
SHAPED = ("images", "messages")
fields = every_column
