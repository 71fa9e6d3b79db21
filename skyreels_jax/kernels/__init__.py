"""Fast operations on arrays: no modules, no meshes."""
