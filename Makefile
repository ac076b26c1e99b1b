# make demo: from synthetic videos to a fused accuracy, 5 minutes on 2 CPU cores.
# make demo-full: the same data, optical flow and temporal heads as well, and one table.
# make test: the tests. Both create .venv and install what they need when it is missing or outdated.
SHELL := bash
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
SEED ?= 0
DEMO ?= demo/seed$(SEED)

.PHONY: demo demo-full test lint clean

$(VENV)/installed: requirements.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet -r requirements.txt
	$(VENV)/bin/pip install --quiet --no-deps 'rtmlib>=0.0.16' # it asks for opencv-python, which needs libGL
	touch $@

$(VENV)/installed-dev: requirements-dev.txt requirements-app.txt $(VENV)/installed
	$(VENV)/bin/pip install --quiet -r requirements-dev.txt
	touch $@

test: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy .

# The demo trains from random weights on small images, hence other learning rates and epochs than the defaults;
# groups 35 and 36 choose the model, the test list is looked at once. A run that was stopped is resumed. Networks this
# small gain nothing from several threads: the streams train side by side, one thread each.
LISTS := --ucf-list $(DEMO)/UCF_list
COMMON := $(LISTS) --val-groups 35,36 --seed $(SEED) --workers 0
SMALL := $(COMMON) --weights none --image-size 64 --batch-size 8 --lr 0.01 --epochs 12
SPATIAL := $(DEMO)/record/spatial
MOTION := $(DEMO)/record/motion_pose
GCN := --arch stgcnpp_small --batch-size 16 --lr 0.05 --weight-decay 5e-4 --epochs 20  # one network, in a minute
SKELETON := $(DEMO)/record/skeleton
STREAMS := $(SPATIAL)/summary.json $(MOTION)/summary.json $(SKELETON)/summary.json
SHOWN := BodyWeightSquats/v_BodyWeightSquats_g01_c01.avi CliffDiving/v_CliffDiving_g02_c01.avi
resume = $(if $(wildcard $(1)/checkpoint.pth.tar),--resume $(1)/checkpoint.pth.tar)
# The lines of one stream, named; its progress bars would mix with the others'.
train = set -o pipefail; OMP_NUM_THREADS=1 TQDM_DISABLE=1 $(PY) $(1) $(call resume,$(@D)) | \
	sed -u 's/^/$(notdir $(@D)): /'

$(DEMO)/prepared: $(VENV)/installed
	$(PY) make_demo_data.py $(DEMO) --seed $(SEED)
	$(PY) extract_frames.py $(DEMO)/videos $(DEMO)/frames --short-side 73
	touch $@

$(SPATIAL)/summary.json: | $(DEMO)/prepared
	$(call train,spatial_cnn_15.py $(SMALL) --data $(DEMO)/frames --record $(@D))

$(MOTION)/summary.json: | $(DEMO)/prepared
	$(call train,motion_pose_cnn_15.py $(SMALL) --data $(DEMO)/pose_flow --record $(@D))

$(SKELETON)/summary.json: | $(DEMO)/prepared
	$(call train,skeleton_gcn_15.py $(COMMON) $(GCN) --data $(DEMO)/pose_flow --record $(@D))

demo: $(DEMO)/prepared
	$(MAKE) --no-print-directory -j3 $(STREAMS)
	$(PY) average_fusion.py $(SPATIAL)/spatial_video_preds.pickle $(MOTION)/motion_pose_video_preds.pickle \
		$(SKELETON)/skeleton_video_preds.pickle $(LISTS) \
		--out $(DEMO)/record/fusion --frames $(DEMO)/frames --pose-flow $(DEMO)/pose_flow
	$(PY) predict.py $(addprefix $(DEMO)/videos/,$(SHOWN)) --short-side 73 --keypoints $(DEMO)/pose_flow \
		--spatial $(SPATIAL)/model_best.pth.tar --motion $(MOTION)/model_best.pth.tar \
		--skeleton $(SKELETON)/model_best.pth.tar --parts $(DEMO)/parts.png \
		--json $(DEMO)/predictions.json --overlay $(DEMO)/overlay.mp4

demo-full: $(DEMO)/prepared
	$(MAKE) --no-print-directory -j2 $(SPATIAL)/summary.json $(MOTION)/summary.json
	$(PY) -m benchmarks.systems $(DEMO) --seeds $(SEED) --val-groups 35,36 --record '{data}/record'

clean:
	rm -rf $(DEMO)
