"""What strangers make of what everpoint prints for Azure.

    check.py schema SCHEMA TEMPLATE...   holds templates against a JSON schema; each that breaks it is told, and ends it with 1
    check.py words SCRIPT                prints the words of each line of a script, as JSON
"""

import json
import shlex
import sys


def schema(schema, *templates):
    from jsonschema import Draft202012Validator

    with open(schema) as file:
        schema = json.load(file)
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    broken = 0
    for template in templates:
        with open(template) as file:
            errors = list(validator.iter_errors(json.load(file)))
        broken += bool(errors)
        for error in errors:
            print(f"{template}: {error.json_path}: {error.message}")
    sys.exit(1 if broken else 0)


def words(script):
    with open(script) as file:
        print(json.dumps([shlex.split(line, comments=True) for line in file]))


if __name__ == "__main__":
    {"schema": schema, "words": words}[sys.argv[1]](*sys.argv[2:])
