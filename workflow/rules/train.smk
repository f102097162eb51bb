# One rule a method, since a priority belongs to a rule: the longest trainings start first.
# The checkpoint, log and weights of a run are no declared outputs: Snakemake deletes those before it starts a
# job again, and a training resumes from its checkpoint.
for method, priority in PLAN["priorities"].items():

    rule:
        name:
            f"train_{method.replace('-', '_')}"
        input:
            at("data/{dataset}/source.json"),
        output:
            at_run("provenance.json"),
        log:
            at("logs/train/{dataset}/{labelled}/{method}/{seed}.txt"),
        benchmark:
            at("benchmarks/train/{dataset}/{labelled}/{method}/{seed}.tsv")
        wildcard_constraints:
            method=method,
        priority: priority
        conda:
            "../../environment.yml"
        threads: PLAN["threads"]
        resources:
            gpu_slots=1 if PLAN["device"] == "cuda" else 0,
        params:
            config=CONFIG,
            cell=cell_of,
            plan=lambda wildcards: {
                k: run_of(wildcards)[k] for k in ("params", "digest")
            },
        message:
            "train {wildcards.dataset}/{wildcards.labelled}/{wildcards.method}/{wildcards.seed}"
        shell:
            "python -m cgs train --config {params.config} {params.cell} --record-failure 2> {log}"
