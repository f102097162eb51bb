rule predict:
    input:
        at_run("provenance.json"),
    output:
        at_run("predictions.npz"),
    log:
        at("logs/predict/{dataset}/{labelled}/{method}/{seed}.txt"),
    benchmark:
        at("benchmarks/predict/{dataset}/{labelled}/{method}/{seed}.tsv")
    wildcard_constraints:
        method=any_of({run[2] for run in RUNS}),
    priority: 1000  # Before further trainings: what is trained is seen early.
    conda:
        "../../environment.yml"
    threads: PLAN["threads"]
    resources:
        gpu_slots=1 if PLAN["device"] == "cuda" else 0,
    params:
        config=CONFIG,
        cell=cell_of,
        digest=PLAN["digests"]["predict"],
        selections=PLAN["evaluation"]["selections"],
    message:
        "predict {wildcards.dataset}/{wildcards.labelled}/{wildcards.method}/{wildcards.seed}"
    shell:
        "python -m cgs predict --config {params.config} {params.cell} 2> {log}"


rule ensemble:
    input:
        lambda wildcards: of_runs(
            ENSEMBLES[tuple(wildcards)]["members"], "provenance.json"
        ),
    output:
        at_run("provenance.json"),
        at_run("predictions.npz"),
    log:
        at("logs/ensemble/{dataset}/{labelled}/{method}/{seed}.txt"),
    benchmark:
        at("benchmarks/ensemble/{dataset}/{labelled}/{method}/{seed}.tsv")
    wildcard_constraints:
        method=any_of({run[2] for run in ENSEMBLES}),
    priority: 1000
    conda:
        "../../environment.yml"
    threads: PLAN["threads"]
    resources:
        gpu_slots=1 if PLAN["device"] == "cuda" else 0,
    params:
        config=CONFIG,
        cell=cell_of,
        plan=lambda wildcards: ENSEMBLES[tuple(wildcards)],
        digest=PLAN["digests"]["ensemble"],
        selections=PLAN["evaluation"]["selections"],
    message:
        "ensemble {wildcards.dataset}/{wildcards.labelled}/{wildcards.method}/{wildcards.seed}"
    shell:
        "python -m cgs ensemble --config {params.config} {params.cell} 2> {log}"


rule prompt:
    input:
        at("data/{dataset}/source.json"),
        lambda wildcards: PROMPTABLE[tuple(wildcards)]["files"],
    output:
        at_run("provenance.json"),
        at_run("predictions.npz"),
    log:
        at("logs/prompt/{dataset}/{labelled}/{method}/{seed}.txt"),
    benchmark:
        at("benchmarks/prompt/{dataset}/{labelled}/{method}/{seed}.tsv")
    wildcard_constraints:
        method=any_of({run[2] for run in PROMPTABLE}),
    conda:
        "../../environment.yml"
    threads: PLAN["threads"]
    resources:
        gpu_slots=1 if PLAN["device"] == "cuda" else 0,
    params:
        config=CONFIG,
        cell=cell_of,
        plan=lambda wildcards: PROMPTABLE[tuple(wildcards)],
        digest=PLAN["digests"]["prompt"],
        selections=PLAN["evaluation"]["selections"],
    message:
        "prompt {wildcards.dataset}/{wildcards.method}"
    shell:
        "python -m cgs prompt --config {params.config} {params.cell} 2> {log}"


rule evaluate:
    input:
        at_run("predictions.npz"),
    output:
        at_run("scores.csv"),
    log:
        at("logs/evaluate/{dataset}/{labelled}/{method}/{seed}.txt"),
    benchmark:
        at("benchmarks/evaluate/{dataset}/{labelled}/{method}/{seed}.tsv")
    priority: 1000
    conda:
        "../../environment.yml"
    params:
        config=CONFIG,
        cell=cell_of,
        digest=PLAN["digests"]["evaluate"],
        evaluation=PLAN["evaluation"],
    message:
        "evaluate {wildcards.dataset}/{wildcards.labelled}/{wildcards.method}/{wildcards.seed}"
    shell:
        "python -m cgs evaluate --config {params.config} {params.cell} 2> {log}"
