rule prepare:
    output:
        source=at("data/{dataset}/source.json"),
        audit=at("data/{dataset}/audit.json"),
    log:
        at("logs/prepare/{dataset}.txt"),
    benchmark:
        at("benchmarks/prepare/{dataset}.tsv")
    conda:
        "../../environment.yml"
    params:
        config=CONFIG,
        plan=lambda wildcards: PLAN["datasets"][wildcards.dataset],
    message:
        "prepare {wildcards.dataset}"
    shell:
        "python -m cgs prepare --config {params.config} --dataset {wildcards.dataset} 2> {log}"
