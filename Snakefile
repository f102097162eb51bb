"""From data to report, one rule a step; every rule calls one command of `python -m cgs`.

snakemake --cores all --config acdc=PATH                the paper (config/paper.yaml)
snakemake --cores all --configfile config/demo.yaml     the demo
"""

# The default config is loaded only where none is given: Snakemake would merge it with the given one.
if "name" not in config:

    configfile: "config/paper.yaml"


include: "workflow/rules/plan.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/analyse.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        REPORT,
        # Named too, so that a run whose files were removed is made again although a report exists.
        of_every_run("scores.csv"),


onstart:
    # Only a real run writes the config that its jobs read: a dry run must not touch that of a running one.
    write_text(CONFIG, yaml.safe_dump(PLAN["config"], sort_keys=False))


onsuccess:
    print(f"\nThe report is {REPORT}")


onerror:
    print(
        "\nSome steps failed; their logs are named above. The same command goes on where it stopped."
    )
