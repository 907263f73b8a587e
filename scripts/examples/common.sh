# Sourced by the examples: finds the program, and the folder that holds the recordings.
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
[ -x "$repository/.venv/bin/python" ] && python="$repository/.venv/bin/python" || python=python

# Threads that spin while they wait slow a busy machine down.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"

penfield() { (cd "$repository" && "$python" -m scripts.penfield "$@"); }

# recording_folder NAME FOLDER: FOLDER itself, or the folder NAME in it.
recording_folder() {
  local folder
  folder=$(cd "${2:?usage: $0 DATA_DIR}" && pwd)
  [ -d "$folder/$1" ] && folder="$folder/$1"
  echo "$folder"
}
