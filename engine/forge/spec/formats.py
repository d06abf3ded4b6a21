"""Which files hold documents, by the ending of their names: the formats of data, and source code by its language.

Invariant: the ending alone decides, whatever a file holds; a file without a known ending is refused by name and never guessed
at. Languages are called as GitHub's Linguist calls them. What a format of data means is said by the step that reads it.
"""

from collections.abc import Mapping

MANY_DOCUMENTS = ("jsonl", "jsonl.gz", "parquet")
"""Formats of which one file holds many documents."""
ONE_DOCUMENT = ("txt", "md", "markdown", "html", "htm", "pdf", "docx")
"""Formats of prose: a file is a document."""
LANGUAGES: Mapping[str, str] = {
    "adb": "Ada", "ads": "Ada", "asm": "Assembly", "awk": "Awk", "bash": "Shell", "bat": "Batchfile", "c": "C", "cc": "C++",
    "clj": "Clojure", "cljs": "Clojure", "cmake": "CMake", "cpp": "C++", "cs": "C#", "css": "CSS", "cu": "Cuda",
    "cuh": "Cuda", "cxx": "C++", "d": "D", "dart": "Dart", "dockerfile": "Dockerfile", "el": "Emacs Lisp", "elm": "Elm",
    "erl": "Erlang", "ex": "Elixir", "exs": "Elixir", "f90": "Fortran", "fs": "F#", "go": "Go", "gradle": "Gradle",
    "graphql": "GraphQL", "groovy": "Groovy", "h": "C", "hcl": "HCL", "hh": "C++", "hpp": "C++", "hs": "Haskell",
    "java": "Java", "jl": "Julia", "js": "JavaScript", "jsx": "JavaScript", "kt": "Kotlin", "kts": "Kotlin",
    "less": "Less", "lisp": "Common Lisp", "lua": "Lua", "m": "Objective-C", "mjs": "JavaScript", "mk": "Makefile",
    "ml": "OCaml", "mli": "OCaml", "mm": "Objective-C++", "nim": "Nim", "nix": "Nix", "php": "PHP", "pl": "Perl",
    "pm": "Perl", "proto": "Protocol Buffer", "ps1": "PowerShell", "pxd": "Cython", "py": "Python", "pyi": "Python",
    "pyx": "Cython", "r": "R", "rb": "Ruby", "rs": "Rust", "rst": "reStructuredText", "s": "Assembly", "scala": "Scala",
    "scss": "SCSS", "sh": "Shell", "sol": "Solidity", "sql": "SQL", "svelte": "Svelte", "swift": "Swift", "tcl": "Tcl",
    "tex": "TeX", "tf": "HCL", "toml": "TOML", "ts": "TypeScript", "tsx": "TypeScript", "v": "Verilog", "vhd": "VHDL",
    "vim": "Vim Script", "vue": "Vue", "yaml": "YAML", "yml": "YAML", "zig": "Zig",
}  # fmt: skip
"""Ending -> language. A file of any of them is one document: its text, as it stands."""
_WHOLE_NAMES = {"makefile": "mk", "gnumakefile": "mk", "dockerfile": "dockerfile", "cmakelists.txt": "cmake"}
FORMATS = (*MANY_DOCUMENTS, *ONE_DOCUMENT, *LANGUAGES)


def format_of(path: str) -> str | None:
    """The format of a file by its name, in lower case and without the dot; None for one that holds no documents."""
    name = path.rsplit("/", 1)[-1].lower()
    if name in _WHOLE_NAMES:
        return _WHOLE_NAMES[name]
    if name.endswith(".jsonl.gz"):
        return "jsonl.gz"
    stem, dot, ending = name.rpartition(".")
    return ending if dot and stem and ending in FORMATS else None
