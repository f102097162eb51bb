# The checkpoint, log and weights of a run are no declared outputs: Snakemake deletes those before it starts a
# job again, and a training resumes from its checkpoint.
rule train:
    input:
        at("data/{dataset}/source.json"),
    output:
        at_run("provenance.json"),
    log:
        at("logs/train/{dataset}/{labelled}/{method}/{seed}.txt"),
    benchmark:
        at("benchmarks/train/{dataset}/{labelled}/{method}/{seed}.tsv")
    conda:
        "../../environment.yml"
    threads: PLAN["threads"]
    resources:
        gpu_slots=1 if PLAN["device"] == "cuda" else 0,
    params:
        config=CONFIG,
        cell=cell_of,
        plan=lambda wildcards: {k: run_of(wildcards)[k] for k in ("params", "digest")},
    message:
        "train {wildcards.dataset}/{wildcards.labelled}/{wildcards.method}/{wildcards.seed}"
    shell:
        "python -m cgs train --config {params.config} {params.cell} --record-failure 2> {log}"
