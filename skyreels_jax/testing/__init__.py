"""What tests need and users may: model folders small enough to make on the spot."""
