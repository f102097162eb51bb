rule tables:
    input:
        of_every_run("scores.csv"),
        audits(PLAN["datasets"]),
    output:
        report(at("tables/main.csv"), category="Tables", caption="../captions/main.rst"),
    log:
        at("logs/tables.txt"),
    benchmark:
        at("benchmarks/tables.tsv")
    conda:
        "../../environment.yml"
    params:
        config=CONFIG,
        digest=PLAN["digests"]["tables"],
        report=PLAN["report_params"],
    message:
        "tables"
    shell:
        "python -m cgs tables --config {params.config} 2> {log}"
