"""The version, in one place: shown by /status and in every call to KSeF."""

VERSION = "0.1.0"
