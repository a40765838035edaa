# The operator's next version, as a test sees it: every stage computes something else, and there is
# another default.
ARG OPERATOR_IMAGE=persona-pruner/operator:dev
FROM ${OPERATOR_IMAGE}
USER 0
RUN sed -i 's/^        version=\([0-9]*\),/        version=\1 + 100,/' /opt/app/persona_jobs/api/stages.py \
    && sed -i 's/\(sparsity_percent: .*\) = 25/\1 = 30/' /opt/app/persona_jobs/api/training.py \
    && grep -q '+ 100' /opt/app/persona_jobs/api/stages.py \
    && grep -q 'sparsity_percent: .* = 30' /opt/app/persona_jobs/api/training.py
USER 65532:65532
