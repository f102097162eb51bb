rule page:
    input:
        at("tables/main.csv"),
    output:
        report(REPORT, category="Report", caption="../captions/report.rst"),
    log:
        at("logs/report.txt"),
    benchmark:
        at("benchmarks/report.tsv")
    conda:
        "../../environment.yml"
    params:
        config=CONFIG,
        digest=PLAN["digests"]["report"],
        report=PLAN["report_params"],
    message:
        "report"
    shell:
        "python -m cgs report --config {params.config} > {log} 2>&1"
