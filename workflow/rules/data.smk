rule prepare:
    output:
        source=at("data/{dataset}/source.json"),
        audit=at("data/{dataset}/audit.json"),
    log:
        at("logs/prepare/{dataset}.txt"),
    benchmark:
        at("benchmarks/prepare/{dataset}.tsv")
    priority: 10000  # Before any training: data that is damaged is said while somebody is still there.
    conda:
        "../../environment.yml"
    params:
        config=CONFIG,
        plan=lambda wildcards: PLAN["datasets"][wildcards.dataset],
    message:
        "prepare {wildcards.dataset}"
    shell:
        "python -m cgs prepare --config {params.config} --dataset {wildcards.dataset} 2> {log}"
