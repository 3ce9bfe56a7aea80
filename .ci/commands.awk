# Prints the ```sh blocks of a Markdown file that no "<!-- long -->" stands before.
/^<!-- long -->$/ { long = 1 }
/^```$/ && inside { inside = 0; next }
inside { print }
/^```sh$/ { if (!long) inside = 1; long = 0 }
