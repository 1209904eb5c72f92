#!/bin/sh
# The version of the program, as Cargo.toml has it.
sed -n 's/^version = "\(.*\)"$/\1/p' "$(dirname "$0")/../../Cargo.toml" | head -n 1
