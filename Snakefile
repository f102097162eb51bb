"""From data to report, one rule a step; every rule calls one command of `python -m cgs`.

snakemake --cores all --config acdc=PATH segthor=PATH synapse=PATH      the paper (config/paper.yaml)
snakemake table-acdc --cores all --config acdc=PATH     one part of it; python -m cgs targets lists them
snakemake --cores all --configfile config/demo.yaml     the demo
"""

from pathlib import Path

# The default config is loaded only where none is given: Snakemake would merge it with the given one. It lies beside
# this file, wherever Snakemake is started.
if "name" not in config:

    configfile: Path(workflow.basedir, "config/paper.yaml")


include: "workflow/rules/plan.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/analyse.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/targets.smk"


rule all:
    default_target: True
    input:
        REPORT,
        # Named too, so that a run whose files were removed is made again although a report exists.
        of_every_run("scores.csv"),


onstart:
    refuse_missing_datasets()
    # Only a real run writes the config that its jobs read: a dry run must not touch that of a running one. As JSON,
    # which is YAML too: a file that was cut off is then never a valid shorter config.
    write_json(CONFIG, PLAN["config"])


onsuccess:
    for page in sorted(Path("reports", PLAN["name"]).rglob("index.html")):
        print(f"\nThe report is {page}")


onerror:
    print(
        "\nSome steps failed; their logs are named above. The same command goes on where it stopped."
    )
