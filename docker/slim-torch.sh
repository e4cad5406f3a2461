#!/bin/sh
# Removes what PyTorch's wheel brings for those who build against it or test it: headers, test programs, protoc.
set -eu
torch=$(python -c 'import importlib.util; print(importlib.util.find_spec("torch").submodule_search_locations[0])')
rm -r "$torch/include" "$torch/test"
find "$torch/bin" -type f ! -name torch_shm_manager -delete
