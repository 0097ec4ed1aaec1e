"""What every page uses: figures, tables, progress, stored files."""
