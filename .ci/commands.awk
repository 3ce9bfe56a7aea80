# Prints the ```sh blocks of a Markdown file, except those after a line "<!-- long -->".
/^<!-- long -->$/ { long = 1 }
/^```$/ && inside { inside = 0; next }
inside { print }
/^```sh$/ { if (!long) inside = 1; long = 0 }
