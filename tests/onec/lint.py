"""Runs the linter and fails on errors and warnings; what it calls information is a matter of taste and is left out."""

import json
import pathlib
import re
import subprocess
import sys
import tempfile

# Rules that this module breaks on purpose.
IGNORED = {
    "BSL008": "more than three returns",
    "BSL011": "cognitive complexity",
    "BSL188": "files are written and read",
    "BSL199": "a chain of conditions without an else",
    "BSL203": "the Internet is used",
    "BSL272": "synchronous calls: it runs on the server",
    "BSL255": "numbers are read in a try: a date that is none is no date",
}

# And those that a sample breaks because it is one.
OF_SAMPLES = {
    "BSL004": "a comment says what the branch is for",
    "BSL042": "nobody calls the procedure around statements",
    "BSL065": "a line in place of a description",
    "BSL215": "a line in place of a description",
    "BSL247": "the secure storage is read in the privileged mode",
}

BROKEN = "Процедура А()\n\tЕсли Истина Тогда\n\t\tБ = (1;\nКонецПроцедуры\n"


def findings(path):
    linter = str(pathlib.Path(sys.executable).with_name("onec-hbk-bsl"))
    command = [linter, "check", "--no-config", "--format", "json", "--ignore", ",".join(IGNORED), path]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if done.returncode not in (0, 1):
        sys.exit(f"{linter} ended with {done.returncode}:\n{done.stderr}")
    try:
        found = json.loads(done.stdout)
    except ValueError:
        sys.exit(f"{linter} does not answer JSON:\n{done.stdout}{done.stderr}")
    return [finding for finding in found if finding["severity"] in ("ERROR", "WARNING")]


with tempfile.TemporaryDirectory() as folder:
    broken = pathlib.Path(folder, "broken.bsl")
    broken.write_text(BROKEN, encoding="utf-8")
    if not any(finding["severity"] == "ERROR" for finding in findings(str(broken))):
        sys.exit("the linter does not find what is broken")



def samples(document):
    """The code of a document, each block as a module: statements alone become a procedure."""
    blocks = re.findall(r"```bsl\n(.*?)```", pathlib.Path(document).read_text(encoding="utf-8"), re.DOTALL)
    for block in blocks:
        if not re.search(r"^Конец(Функции|Процедуры)", block, re.MULTILINE):
            lines = "".join(f"\t{line}\n" if line else "\n" for line in block.splitlines())
            block = f"Процедура Пример()\n\n{lines}\nКонецПроцедуры\n"
        yield block


with tempfile.TemporaryDirectory() as folder:
    serious = []
    for path in sys.argv[1:]:
        if not path.endswith(".md"):
            serious += [(path, finding) for finding in findings(path)]
            continue
        for number, text in enumerate(samples(path), 1):
            sample = pathlib.Path(folder, "sample.bsl")
            sample.write_text(text, encoding="utf-8")
            serious += [(f"{path}, block {number}", f) for f in findings(str(sample)) if f["code"] not in OF_SAMPLES]
for path, finding in serious:
    print(f"{path}:{finding['line']}: {finding['severity']} {finding['code']} {finding['message']}")
sys.exit(1 if serious else 0)
